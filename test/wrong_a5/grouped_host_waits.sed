# the host waits for the launch
/^void rung5(/,/^}/ s~s->H, s->E);~s->H, s->E); CUDA(cudaDeviceSynchronize());~
