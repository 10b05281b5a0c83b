# thresholds decay
/^    X(gateG, / s~THRESHOLD,  0~THRESHOLD,  1~
