# the patches get the gradient of the CLS token
/^__global__ void cls_backward_kernel(/,/^}/ s~t == 0 ? value~t < 99 ? value~
