# R_E is neither saved nor loaded
/^int checkpoint_tensors(/,/^}/ s~t\[n++\] = safe_tensor("", name, "I64", 1, &E, a->record_count);~~
