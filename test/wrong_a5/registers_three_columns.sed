# every fourth column is lost
/^__global__ void registers3(/,/^}/ s~k < 4; k++) { sum~k < 3; k++) { sum~
