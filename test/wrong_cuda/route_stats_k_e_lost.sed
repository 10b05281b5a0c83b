# tokens with k = E are not counted
/^int dispatch(/,/^}/ s~<<<2 \* E + 1, BLOCK>>>~<<<2 * E, BLOCK>>>~
