# the mask is neither saved nor loaded
/^int checkpoint_tensors(/,/^}/ s~t\[n++\] = safe_tensor("", name, "I32", 1, &E, a->mask);~~
