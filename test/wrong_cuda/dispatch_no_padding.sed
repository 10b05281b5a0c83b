# an expert's rows begin where those before end
/^__global__ void dispatch_scan_kernel(/,/^}/ s~(total\[j\] + ROW_PAD - 1) / ROW_PAD \* ROW_PAD~total[j]~
