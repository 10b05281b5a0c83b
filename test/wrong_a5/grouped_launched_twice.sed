# all experts are launched two times
/^void rung5(/,/^}/ s~    grouped5<<<~    for (int i = 0; i < 2; i++) grouped5<<<~
