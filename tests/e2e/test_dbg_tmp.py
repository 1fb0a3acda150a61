from tests.e2e.conftest import *
from tests.e2e.test_conversation import open_ticket
def test_x(browsers, desk):
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    for n,p in (("ana",ana),("bruno",bruno)):
        p.on("console", lambda m,n=n: print(n, m.text))
        p.evaluate("""() => { for (const e of ['live:subscribed','live:presence.updated','live:send','live:subscribe','live:unsubscribe']) document.addEventListener(e, ({detail}) => console.log(e, JSON.stringify(detail))) }""")
    gil = desk.customer("Gil"); gil.writes("Oi")
    open_ticket(ana, gil); open_ticket(bruno, gil)
    ana.wait_for_timeout(4000)
    print(ana.locator("presence-strip").evaluate("e => e.outerHTML"))
