# --resume loads the weights only
/^int main(/,/^}/ s~\*s\.resume && training~0 \&\& training~
