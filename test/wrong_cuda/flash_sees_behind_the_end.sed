# one key too many
/^template <bool causal> __device__ inline bool sees(/,/^}/ s~key < T~key <= T~
