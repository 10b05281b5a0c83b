# the gate matrix W decays
/^    X(gatew, / s~ORTHOGONAL, 0~ORTHOGONAL, 1~
