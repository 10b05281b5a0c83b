# rows are divided by the square of their length
/^void unit_rows(/,/^}/ s~/= norm~/= norm * norm~
