import time, io, cProfile, pstats
from rich.console import Console
from selfimprove.execute import run
from selfimprove.reporting.terminal import Progress
def quiet(): return Progress(Console(file=io.StringIO()))
def test_a(tiny_recipe):
    t=time.time(); import trl, peft; from trl import SFTTrainer, DPOTrainer; print("import trl", time.time()-t)
    t=time.time(); r=run(tiny_recipe("sft"), quiet()); print("sft", time.time()-t, r.policy.digest)
    for e in r.events: print(e["event"], e.get("label"), e.get("seconds"))
    p=cProfile.Profile(); p.enable()
    t=time.time(); r=run(tiny_recipe("cream",output=str(r.folder)+"2"), quiet()); print("cream", time.time()-t, r.policy.digest)
    p.disable()
    for e in r.events: print(e["event"], e.get("label"), e.get("seconds"))
    pstats.Stats(p).sort_stats("cumtime").print_stats(60)
    pstats.Stats(p).sort_stats("tottime").print_stats(25)
