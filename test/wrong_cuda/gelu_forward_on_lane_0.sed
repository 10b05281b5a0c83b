# GELU runs on lane 0
/^void gelu_forward(/,/^}/ s~lane->stream~lanes->stream~
