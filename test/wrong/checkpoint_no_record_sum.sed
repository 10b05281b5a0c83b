# R_S is neither saved nor loaded
/^int checkpoint_tensors(/,/^}/ s~t\[n++\] = safe_tensor("", name, "F64", 1, &C, a->record_sum);~~
