# rows behind the last whole slab are lost
/^int slabs_for(/,/^}/ s~return blocks_for((size_t)N, SLAB)~return N > SLAB ? N / SLAB : 1~
