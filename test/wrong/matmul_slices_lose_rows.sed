# with several threads the rows behind the last whole slice are lost
/^int slice_begin(/,/^}/ s~s == slices || s \* width~s * width~
