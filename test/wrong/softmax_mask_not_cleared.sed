# masked columns keep their scores
/^void softmax_row(/,/^}/ s~j < valid ? row\[j\] / sum : 0\.0f~j < valid ? row[j] / sum : row[j]~
