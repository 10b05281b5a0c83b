# the progress line shows the sum of losses instead of their mean
/^void train(/,/^}/ s~loss / since, norm~loss, norm~
