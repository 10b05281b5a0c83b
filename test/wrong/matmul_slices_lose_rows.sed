# with several threads the rows behind the last whole slice are lost
/^void matmul(/,/^}/ s~s == slices - 1 || begin~begin~
