# the padded columns of the vocabulary take part in the softmax
/^void crossentropy_forward(/,/^}/ s~v < V; v++) { sum +=~v < Vp; v++) { sum +=~
