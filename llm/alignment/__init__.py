"""Continuous alignment: a model that is kept aligned with what its users ask, cycle by cycle.

    log → watch → filter → label → update → gate → promote, and again

`python -m llm align run --store loop --cycles 5` does it all on simulated users; each step is a command of its own, is
done once per cycle however often it is called, and after a kill goes on where it was. In the order to read:

store         one SQLite file: what every step writes, in transactions; one process at a time
registry      model versions: lineage, verdicts, promotion, rollback
users         simulated users: requests that drift, a known preference, ratings
generation    responses of a version, and the hidden states of texts
log           step 1: a share of the traffic, with model version, sampling settings and log-probs
embedding     vectors by a sentence encoder, if the user names one
sqlite        SQLite, with sqlite-vec where that is installed
nearest       the stored vectors that are nearest to given ones
imported      the same from a file of an OpenAI-compatible server
drift         the distance between what a version was trained on and what users ask
watch         step 2: users' ratings of the live version against its predecessor's; a rollback
logistic      logistic regression with a normal prior
uncertainty   a Bradley–Terry model on hidden states, and how unsure it is
rejection     a small classifier: which responses labellers will reject
filter        step 3: which rows are labelled, and why
label         step 4: pairs, and their answers
labellers     what answers: the simulated preference, a reward model, a judge
people        pairs for Label Studio, and its annotations
update        step 5: training on the new pairs and a share of old ones
gold          the gold set: prompts by skill, and what a response is worth
harness       more skills: tasks of lm-evaluation-harness
gate          step 6: head-to-head, gold set, alarms; a verdict with its reasons
promote       step 7: the candidate goes live, or is refused
settings      the settings of all steps
context       what every step works with
neighbours    what was asked like a text
loop          the steps in their order; a scenario of cycles
report        what happened, as text
chart, page   and as a page
"""
