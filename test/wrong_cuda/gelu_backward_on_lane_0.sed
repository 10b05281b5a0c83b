# the derivative of GELU runs on lane 0
/^void gelu_backward(/,/^}/ s~lane->stream~lanes->stream~
