# products of cuBLAS run on lane 0 whatever the lane
/^void lanes_make(/,/^}/ s~l->cublas, l->stream~l->cublas, lanes->stream~
