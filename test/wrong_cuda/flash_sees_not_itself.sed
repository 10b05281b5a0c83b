# a token does not see itself
/^template <bool causal> __device__ inline bool sees(/,/^}/ s~key <= query~key < query + (query == 0)~
