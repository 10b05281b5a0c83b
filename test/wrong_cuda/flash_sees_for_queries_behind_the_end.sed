# gradients of queries that there are not
/^template <bool causal> __device__ inline bool sees(/,/^}/ s~query < T && ~~
