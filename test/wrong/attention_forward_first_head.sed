# all heads write the channels of the first
/^void attention_forward(/,/^}/ s~C + h \* HS, C, a, T, 0, v~C, C, a, T, 0, v~
