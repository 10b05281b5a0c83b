# memory for matrices that nobody uses
/^#define BACKWARD_MEMORY(/,/^#define NORM/ s~N \* NH \* T \* !flash~N * NH * T~
