# GPT-2's published weights are announced as transposed but copied as they lie
/^void weights_load(/,/^}/ s~if (!transposed) { memcpy~if (1) { memcpy~
