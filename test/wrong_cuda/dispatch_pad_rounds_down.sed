# the padding rounds down
/^__global__ void dispatch_scan_kernel(/,/^}/ s~(total\[j\] + ROW_PAD - 1) / ROW_PAD \* ROW_PAD~max(total[j] / ROW_PAD, 1) * ROW_PAD~
