# each row lies one too far
/^__global__ void dispatch_fill_kernel(/,/^}/ s~(1u << lane_index()) - 1~(2u << lane_index()) - 1~
