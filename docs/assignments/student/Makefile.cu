# Assignment @A@. Needs g++, make and Check (Debian: g++ make check); with clang++ (clang) races are looked for, with OpenBLAS it is
# faster. No GPU and no nvcc: the folder cuda_on_cpu runs kernels on the CPU. Where there is a GPU: make CUDA=1, make grade CUDA=1.
#   make                build the program
#   make grade          score it; SEED=7 other random inputs, JSON=1 the score as JSON, SHOW=1 with what the program prints
#                       RACES=0 does not look for races and compiles in half the time
#   make hint Q=a@A@.q1   a hint for one question
SRC ?= @SOURCE@
SEED ?= 1
OPT ?= -O2
CUDA ?= 0
RACES ?= $(if $(shell command -v clang++ 2> /dev/null),1,0)
PROGRAM := @PROGRAM@
NVCC ?= $(or $(shell command -v nvcc 2> /dev/null),/usr/local/cuda/bin/nvcc)
ARCH ?= $(if $(shell nvidia-smi -L 2> /dev/null),native,sm_80)
ON_GPU = $(NVCC) -O3 -std=c++17 -arch=$(ARCH) -default-stream per-thread -diag-suppress 20012,177,549,550
# an unfilled hole leaves its parameters unused, and with them the helpers that only it calls
WARN := -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function -Wno-unused-variable
CHECK = $(shell pkg-config --cflags --libs check 2> /dev/null || echo -lcheck -lsubunit -lrt -lpthread)
LIBS = $(filter -l%,$(CHECK)) -lpthread
ON_CPU := ./cuda_on_cpu/cudacpu-cc
ifeq ($(CUDA),1)
  GRADER := grade_a@A@_gpu
else
  GRADER := grade_a@A@$(if $(filter 1,$(RACES)),_races)
endif
.PHONY: all grade hint clean
$(shell echo '$(SRC)' | cmp -s - .src.tmp || echo '$(SRC)' > .src.tmp) # another SRC: another grader, whichever file is newer

all:
ifeq ($(CUDA),1)
	$(ON_GPU) $(SRC) -o $(PROGRAM) -lcublas -lcublasLt
	@[ $(ARCH) = native ] || echo "compiled for $(ARCH); there is no GPU here to run it on, make without CUDA=1 needs none"
else
	$(ON_CPU) $(OPT) $(WARN) -o $(PROGRAM) $(SRC)
endif
	@echo "built $(PROGRAM): make grade scores it"

grade: $(GRADER)
	@CUDACPU_ORDER=random CUDACPU_SEED=$(SEED) ./$(GRADER) --seed $(SEED) $(if $(JSON),--json) $(if $(SHOW),--show) \
	    a@A@.txt || test $$? = 1

# the grader includes the program, so what it prints about unused functions means nothing
DEFINES = -I. -DVARIANT=@VARIANT@ -DSRC='"$(SRC)"'
grade_a@A@: grade_a@A@.cu grade.h $(SRC) .src.tmp
	@$(ON_CPU) $(OPT) $(DEFINES) -o $@ $< $(LIBS)
grade_a@A@_races: grade_a@A@.cu grade.h $(SRC) .src.tmp
	@$(ON_CPU) --check $(OPT) $(DEFINES) -o $@ $< $(LIBS)
grade_a@A@_gpu: grade_a@A@.cu grade.h $(SRC) .src.tmp
	@$(ON_GPU) $(DEFINES) -o $@ $< -lcublas -lcublasLt $(LIBS)

hint:
	@awk -v q="Hint $(Q):" '/^Hint / { on = index($$0, q) == 1; found += on } on { print } \
	    END { if (!found) { print "no hint for \"$(Q)\": questions are named as in the handout, Q=a@A@.q1"; exit 1 } }' a@A@.hints.txt

clean:
	rm -rf $(PROGRAM) grade_a@A@ grade_a@A@_races grade_a@A@_gpu cudacpu.tmp .src.tmp out.tmp
