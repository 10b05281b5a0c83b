# exp overflows with large logits
/^__global__ void classifier_kernel(/,/^}/ s~float lse = max + logf(warp_sum(sum))~float lse = logf(warp_sum(sum) * expf(max))~
