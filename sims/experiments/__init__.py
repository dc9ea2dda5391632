"""Experiments: an algorithm on an environment with R runs, as data; running them, and their records.

experiment      the settings of an experiment
options         command-line options made from settings
command         how a command ends: exit status, signals, closed pipes, errors in one line
foreign_text    JSON and YAML that others wrote
folders         files and folders that a command is told to write
whole           files and folders that appear whole or not at all, with checksums
memory          the memory that an experiment needs at least, held against what is there
executor        trains stacked experiments
record_loop     the loop that trains, evaluates and makes a record, for simulations and language models
evaluation      what is measured of a policy, exactly or from samples
pool_evaluation what is measured of a fixed pool of pairs
runner          finds the records of experiments, or runs what is missing
engines/        where it runs: worker processes, Ray, or submitit
costs           the time that experiments take
store           records on disk
record_file     the file of a stack's records
record_schema   the arrays of a record: meaning, axes, units
code_digest     a hash of the source code behind a record
measures        scores, and the optima that they refer to
record_arrays   the arrays of a record by name, their axes, scores and optima
summary         the table of a record
curves          its plot
results         a record as the user sees it, with both
"""
