# the bytes of a token are swapped
/^void data_read(/,/^}/ s~s->bytes\[2 \* i\] | s->bytes\[2 \* i + 1\] << 8~s->bytes[2 * i + 1] | s->bytes[2 * i] << 8~
