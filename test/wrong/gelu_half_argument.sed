# sqrt(2/pi) without the 2 of the sigmoid form
/^#define GELU_U(/ s~1\.5957691216f~0.7978845608f~
