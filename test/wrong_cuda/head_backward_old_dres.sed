# the gradient of the step before is not cleared
/^void head_backward(/,/^}/ s~CUDA(cudaMemset(d->dres~if (model->step < 0) CUDA(cudaMemset(d->dres~
