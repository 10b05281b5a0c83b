# gelu' is taken at the output of gelu
/^void feedforward_backward(/,/^}/ s~(floatX\*)pre)~(floatX*)act)~
