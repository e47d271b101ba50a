# Reference figures for statistics_against_r.py: reads two CSV files, writes one name and number a line.
# Usage: Rscript statistics_against_r.R cases.csv counts.csv resamples
suppressMessages({library(pROC); library(boot)})
arguments <- commandArgs(trailingOnly = TRUE)
resamples <- as.integer(arguments[3])
options(digits = 17)
say <- function(name, value) cat(name, format(value, digits = 17), "\n")

for (study in split(read.csv(arguments[1]), ~study)) {
  name <- study$study[1]
  a <- roc(study$truth, study$teacher, levels = c(0, 1), direction = "<", quiet = TRUE)
  b <- roc(study$truth, study$bundle, levels = c(0, 1), direction = "<", quiet = TRUE)
  say(paste(name, "auc_teacher"), as.numeric(auc(a)))
  say(paste(name, "auc_bundle"), as.numeric(auc(b)))
  say(paste(name, "var_teacher"), var(a, method = "delong"))
  say(paste(name, "var_bundle"), var(b, method = "delong"))
  say(paste(name, "cov"), cov(a, b, method = "delong"))
  test <- roc.test(b, a, method = "delong", paired = TRUE)
  say(paste(name, "z"), as.numeric(test$statistic))
}

average_precision <- function(truth, score) {
  order <- order(-score); truth <- truth[order]; score <- score[order]
  last <- c(diff(score) != 0, TRUE)
  hits <- cumsum(truth)[last]; called <- seq_along(truth)[last]
  sum(diff(c(0, hits)) * hits / called) / sum(truth)
}
f1 <- function(truth, decision) 2 * sum(truth * decision) / (sum(truth) + sum(decision))
metrics <- list(
  accuracy = function(d) mean(d$bundle_call == d$truth) - mean(d$teacher_call == d$truth),
  f1 = function(d) f1(d$truth, d$bundle_call) - f1(d$truth, d$teacher_call),
  brier = function(d) mean((d$bundle - d$truth)^2) - mean((d$teacher - d$truth)^2),
  auprc = function(d) average_precision(d$truth, d$bundle) - average_precision(d$truth, d$teacher)
)
study <- subset(read.csv(arguments[1]), study == "probabilities")
for (metric in names(metrics)) for (seed in 1:3) {
  set.seed(seed)
  found <- boot(study, function(d, i) metrics[[metric]](d[i, ]), R = resamples, strata = study$truth)
  # The acceleration from the jackknife, as ours. boot.ci adds the influences of all strata as if they were one sample;
  # centred and divided by their stratum's size, its sum is the formula for several (Davison, Hinkley 1997, section 5.3).
  influence <- empinf(data = study, statistic = function(d, i) metrics[[metric]](d[i, ]), stype = "i", type = "jack",
                      strata = study$truth)
  influence <- ave(influence, study$truth, FUN = function(l) (l - mean(l)) / length(l))
  ends <- boot.ci(found, type = "bca", L = influence)$bca[4:5]
  say(paste("bca", metric, seed, "low"), ends[1])
  say(paste("bca", metric, seed, "high"), ends[2])
}

counts <- read.csv(arguments[2])
for (row in seq_len(nrow(counts))) {
  b <- counts$gained[row]; c <- counts$lost[row]; n <- counts$pairs[row]
  # Tango's ends are roots of a quartic: Yang, Sun, Hardin, Statistics in Medicine 32 (2013) 1336-1342.
  g <- qnorm(0.975)^2; e <- b - c; s <- b + c
  roots <- polyroot(c(e^2 * (e^2 / g - s) / g, n * e * (2 * s / g + 1) - e^3 * (4 * n / g + 1) / g,
                      2 * n * e^2 * (3 * n / g + 2) / g - n^2 * (s / g + 1), -n * e * (n / g + 1) * (4 * n / g + 1),
                      n^2 * (n / g + 1)^2))
  real <- Re(roots[abs(Im(roots)) < 1e-6])
  say(paste("tango", b, c, n, "low"), min(real))
  say(paste("tango", b, c, n, "high"), max(real))
  say(paste("mcnemar", b, c, n, "corrected"), mcnemar.test(matrix(c(1, b, c, 1), 2))$p.value)
  say(paste("mcnemar", b, c, n, "exact"), binom.test(b, b + c)$p.value)
}
