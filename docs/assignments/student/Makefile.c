# Assignment @A@. Needs a C compiler, make and Check (Debian: gcc make check); OpenBLAS makes training faster, nothing else.
#   make                build the program
#   make grade          score it; SEED=7 other random inputs, JSON=1 the score as JSON, SHOW=1 with what the program prints
#   make hint Q=a@A@.q1   a hint for one question
#   make data           the text of six languages, to train on
SRC ?= @SOURCE@
SEED ?= 1
OPT ?= -O3 -fno-math-errno -fno-trapping-math
PROGRAM := @PROGRAM@
# an unfilled hole leaves its parameters unused, and with them the helpers that only it calls
WARN := -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function
OMP := $(shell echo 'int main(void) { return 0; }' | $(CC) -fopenmp -x c - -o /dev/null 2> /dev/null && echo -fopenmp || \
    echo -Wno-unknown-pragmas)
BLAS = $(shell pkg-config --exists openblas 2> /dev/null && echo "-DUSE_BLAS '-DBLAS_NAME=\"OpenBLAS\"'" && \
    pkg-config --cflags --libs openblas)
CHECK = $(shell pkg-config --cflags --libs check 2> /dev/null || echo -lcheck -lsubunit -lrt -lpthread)
.PHONY: all grade hint data clean

all:
	$(CC) $(OPT) -g $(WARN) $(OMP) $(SRC) -o $(PROGRAM) $(BLAS) -lm
	@echo "built $(PROGRAM): make grade scores it, ./$(PROGRAM) --help"

# the grader includes the program, so what it prints about unused functions means nothing
grade:
	@$(CC) $(if $(filter file,$(origin OPT)),-O1,$(OPT)) -g -I. $(WARN) -Wno-error $(OMP) -DVARIANT=@VARIANT@ \
	    -DSRC='"$(SRC)"' grade_a@A@.c -o grade_a@A@ $(CHECK) -lm
	@./grade_a@A@ --seed $(SEED) $(if $(JSON),--json) $(if $(SHOW),--show) a@A@.txt || test $$? = 1

hint:
	@awk -v q="Hint $(Q):" '/^Hint / { on = index($$0, q) == 1; found += on } on { print } \
	    END { if (!found) { print "no hint for \"$(Q)\": questions are named as in the handout, Q=a@A@.q1"; exit 1 } }' a@A@.hints.txt

data: languages.c
	$(CC) -O2 languages.c -o languages -lm
	./languages --seed 1 --bytes 2097152 --out train.txt
	./languages --seed 2 --bytes 131072 --out val.txt --truth val.truth

clean:
	rm -rf $(PROGRAM) grade_a@A@ languages train.txt val.txt val.truth *.dSYM
