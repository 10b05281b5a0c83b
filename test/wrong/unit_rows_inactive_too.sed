# rows of inactive experts are rescaled as well
/^void unit_rows(/,/^}/ s~!mask\[e\] || norm~norm~
