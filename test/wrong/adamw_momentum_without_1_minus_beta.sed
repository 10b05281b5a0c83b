# the first moment adds the whole gradient
/^void adamw(/,/^}/ s~(1\.0f - beta1) \* gi~gi~
