# only the outer factor is derived
/^void gelu_backward(/,/^}/ s~(s + x \* s \* (1\.0f - s) \* du)~s~
