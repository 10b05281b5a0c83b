# a batch of another size is replayed as a full one
/^void replay(/,/^}/ s~B != model->max_B || ~~
