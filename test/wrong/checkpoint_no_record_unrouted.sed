# the number of unrouted tokens is neither saved nor loaded
/^int checkpoint_tensors(/,/^}/ s~t\[n++\] = safe_tensor("", name, "I64", 1, &one, &a->record_unrouted);~~
