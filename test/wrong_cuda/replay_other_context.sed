# a shorter context is replayed as a full one
/^void replay(/,/^}/ s~T != model->config.T || ~~
