/* What the processor has and the system saves across context switches. */
#ifndef TQ_CPU_H
#define TQ_CPU_H

int tq_cpu_baseline(void);
int tq_cpu_avx2(void);
int tq_cpu_avx512(void);
int tq_cpu_avx512vbmi(void);
int tq_cpu_neon(void);
int tq_cpu_dotprod(void);

#endif
