# the 3 of the derivative of x^3 is missing
/^void gelu_backward(/,/^}/ s~1\.0f + 3\.0f \* 0\.044715f~1.0f + 0.044715f~
