# the embedding gets the gradient of the head only
/^void gpt2_backward(/,/^}/ s~    embedding_backward(~    (void)(~
