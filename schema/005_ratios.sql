-- A ratio reads as it was asked for: the shortest of at most five digits that asks for as many tokens (21,299 tokens of 106,496
-- parameters are 0.01, not 0.0099999). Runs that are collected from now on come so; those of before are put right here.

UPDATE run SET chinchilla = coalesce(
  [
    round(tokens / (20.0 * params), CAST(digits - 1 - floor(log10(tokens / (20.0 * params))) AS INTEGER))
    FOR digits IN range(1, 6)
    IF round(
      round(tokens / (20.0 * params), CAST(digits - 1 - floor(log10(tokens / (20.0 * params))) AS INTEGER)) * 20 * params
    ) = tokens
  ][1],
  chinchilla
)
WHERE tokens > 0 AND params > 0 AND chinchilla IS NOT NULL;
