# every thread steps every parameter
/^void adamw(/,/^}/ s~#pragma omp for simd schedule(static) nowait~~
