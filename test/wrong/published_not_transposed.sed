# GPT-2's published weights (in, out) are read as (out, in)
/^const SafeTensor\* weights_find(/,/^}/ s~\*transposed = strstr~*transposed = 0 \&\& strstr~
