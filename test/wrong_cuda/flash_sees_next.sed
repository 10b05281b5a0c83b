# a token sees the one behind it
/^template <bool causal> __device__ inline bool sees(/,/^}/ s~key <= query~key <= query + 1~
