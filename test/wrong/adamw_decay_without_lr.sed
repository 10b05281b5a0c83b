# decay is not multiplied by the learning rate
/^void adamw(/,/^}/ s~+ decay \* p\[i\])~+ decay * p[i] / lr)~
