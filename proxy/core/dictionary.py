"""What requests have in common, for compressing one that is alone: zstd finds it here instead.

Rule: never a byte of it changes.  What was compressed with it can be read with it alone, so a
better one would get a number of its own and stand beside it.
Non-rule: a phrase that is missing or out of date costs a few bytes, and nothing else.
Source: Adobe's pages on query parameters, AppMeasurement's order of them, the mobile SDKs' context
data, the Edge Network's and the browsers' own words; what is most frequent stands last, for a
phrase nearer to the request is cheaper to name.
"""

EDGE = (
    b'{"meta":{"konductorConfig":{"streaming":{"enabled":true,"recordSeparator":"\\u0000",'
    b'"lineFeed":"\\n"}},"configOverrides":{},"state":{"domain":"","cookiesEnabled":tr'
    b'ue,"entries":[{"key":'
    b'"kndctr_AdobeOrg_cluster","value":"irl1"}]}},"query":{"identity":{"fetch":["ECID"]}},'
    b'"events":[{"xdm":{"_id":"","eventType":"commerce.productViews","eventType":"media.ping",'
    b'"eventType":"web.webinteraction.linkClicks","eventType":"web.webpagedetails.pageViews",'
    b'"web":{"webInteraction":{"name":"","type":"other","URL":"https://www.","linkClic'
    b'ks":{"value":1}},'
    b'"webPageDetails":{"URL":"https://www.","name":"","pageViews":{"value":1},"server":"www.",'
    b'"siteSection":""},"webReferrer":{"URL":"https://www."}},'
    b'"device":{"manufacturer":"Google","model":"","type":"mobile","screenHeight":1080'
    b',"screenWidth":1920,'
    b'"screenOrientation":"landscape","screenOrientation":"portrait"},'
    b'"environment":{"operatingSystem":"Android","operatingSystemVersion":"14","type":'
    b'"application"},'
    b'"environment":{"type":"browser","browserDetails":{"viewportWidth":1440,"viewport'
    b'Height":900}},'
    b'"application":{"id":"com.","name":"","version":"1.0"},"commerce":{"order":{"curr'
    b'encyCode":"EUR",'
    b'"priceTotal":,"purchaseID":""},"purchases":{"value":1}},"productListItems":[{"SK'
    b'U":"","name":"",'
    b'"quantity":1,"priceTotal":}],"_experience":{"analytics":{"customDimensions":{"eV'
    b'ars":{"eVar1":"",'
    b'"props":{"prop1":""},"event1to100":{"event1":{"value":1}}}}},'
    b'"placeContext":{"localTime":"2026-01-01T00:00:00.000+01:00","localTimezoneOffset":-60},'
    b'"timestamp":"2026-01-01T00:00:00.000Z",'
    b'"identityMap":{"ECID":[{"id":"","authenticatedState":"ambiguous","primary":true}]},'
    b'"implementationDetails":{"name":"https://ns.adobe.com/experience/mobilesdk/android",'
    b'"version":"3.0.1+3.1.0","environment":"app"}'
    b'"implementationDetails":{"name":"https://ns.adobe.com/experience/alloy/reactor",'
    b'"version":"2.27.0+2.27.1","environment":"browser"}},'
    b'"data":{"__adobe":{"analytics":{"eVar1":"","prop1":"","events":"event1"},"target":{}}}}]}'
)
HEADERS = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<request>\n<sc_xml_ver>1.0</sc_xml_ver>\n'
    b"<reportSuiteID>"
    b"</reportSuiteID>\n<timestamp></timestamp>\n<visitorID></visitorID>\n<ipAddress></ipAddress>\n"
    b"<userAgent></userAgent>\n<pageName></pageName>\n<pageURL></pageURL>\n<eVar1></eVar1>\n"
    b"</request>\r\n"
    b"Accept-Language: ja,en-US;q=0.9,en;q=0.8\r\n"
    b"Accept-Language: fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7\r\n"
    b"Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7\r\nAccept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: AMCVS_%40AdobeOrg=1; AMCV_%40AdobeOrg=179643557%7CMCIDTS%7C20000%7CMCMID"
    b"%7C%7CMCAAMLH-1"
    b"%7C6%7CMCAAMB-1%7CMCOPTOUT-1s%7CNONE%7CvVersion%7C5.5.0; s_vi=[CS]v1|[CE]; s_eci"
    b"d=MCMID%7C; s_fid="
    b"; kndctr_AdobeOrg_identity=CiY\r\n"
    b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"
    b'sec-ch-ua: "Chromium";v="140", "Google Chrome";v="140", "Not?A_Brand";v="24"\r\n'
    b'sec-ch-ua-mobile: ?1\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: "Android"\r\n'
    b'sec-ch-ua-platform: "Windows"\r\nX-Forwarded-For: 10.0.0.1\r\n'
    b"Content-Type: application/json\r\nContent-Type: text/plain;charset=UTF-8\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n"
    b"User-Agent: Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/)\r\n"
    b"User-Agent: Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko)"
    b" Chrome/140.0.0.0 Mobile Safari/537.36\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    b" (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1\r\n"
    b"User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"
    b" (KHTML, like Gecko) Version/18.5 Safari/605.1.15\r\n"
    b"User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    b" Chrome/140.0.0.0 Safari/537.36\r\nAccept: */*\r\n"
    b"Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8\r\n"
    b"Referer: https://www.example.com/\r\n\r\n"
)
QUERY = (
    b"POST /ee/v1/collect?configId=POST /ee/v1/interact?configId=&requestId=POST /b/ss//6"
    b"/0/JAVA-4.18.2-AN/s/1/H.27.5--NS/0?POST /b/ss/"
    b"&c.&a.&AppID=&CarrierName=&DeviceName=&OSVersion=Android%2014&OSVersion=iOS%2018"
    b"&Resolution=1080x2340"
    b"&RunMode=Application&TimeSinceLaunch=&LaunchEvent=LaunchEvent&Launches=&DaysSinceFirstUse="
    b"&DaysSinceLastUse=&HourOfDay=&DayOfWeek=&PrevSessionLength=&locale=en-US&.a&.c"
    b"&t=00%2F00%2F0000%2000%3A00%3A00%200%20-60&cp=foreground&pe=lnk_o&pev2=AMACTION%3A"
    b"&activitymap.&page=&link=&region=&pageIDType=1&.activitymap&.a&.c"
    b"&h.&brands=Chromium%7C140%7CGoogle%20Chrome%7C140&mobile=0&platform=Windows&plat"
    b"formversion=15.0.0&.h"
    b"&pid=&pidt=1&oid=https%3A%2F%2Fwww.&ot=A&pe=lnk_d&pe=lnk_e&pev1=https%3A%2F%2Fwww.&pev2="
    b"&purchaseID=&xact=&zip=&state=&h1=&l1=&tnt=&logged%20in&guest&true&false"
    b"&v0=&v1=D%3Dc1&c1=D%3Dv1&v2=&c2=&v3=&c3=&v4=&c4=&v5=&c5=&v6=&c6=&v7=&c7=&v8=&c8=&v9=&c9="
    b"&v10=&c10=&v11=&c11=&v12=&c12=&v13=&c13=&v14=&c14=&v15=&c15=&v20=&c20=&v25=&c25=&v30=&c30="
    b"&v40=&c40=&v50=&c50=&v60=&c60=&v70=&c70=&v75=&c75=&v100=&v120=&D=pageName&D=g"
    b"&events=prodView%2Cevent1%2Cevent2&events=scView%2CscAdd%2CscCheckout%2Cpurchase"
    b"&products=%3B%3B1%3B"
    b"&cc=GBP&cc=USD&cc=EUR&ch=home&server=www.&gn=&ns=&ce=UTF-8&ts=17&vid=&aid=&fid=-&mid="
    b"&aamlh=6&aamb=RKhpRz8krg2tLO6pguXWp5olkAcUniQYPHaMWWgdJ3xzPWQmdj0y"
    b"&pageName=home%3A&g=https%3A%2F%2Fwww.%2F%3Fid%3D&utm_source%3D&utm_medium%3Demail"
    b"&r=https%3A%2F%2Fwww.google.com%2F"
    b"&s=390x844&s=1366x768&s=1920x1080&c=24&j=1.6&v=N&k=Y&bw=1440&bh=900"
    b"&mcorgid=%40AdobeOrg&AQE=1 HTTP/1.1\r\n"
    b"GET /b/ss//1/JS-2.27.0/s?AQB=1&ndh=1&pf=1&t=1%2F10%2F2026%2012%3A0%3A0%200%20-60&mid="
)
BEACONS = EDGE + HEADERS + QUERY

# How often which byte, length and distance occurs, as zstd wants it: with this known it need not
# count anew for each hit, which was half of its work (`bench.tables` made it, and can be read).
# Each frame names the number; frames without one are of a release that had the text alone, and
# what reads with tables reads them as well.
NUMBER = 33_003  # zstd leaves those from 32,768 on to whoever wants one
TABLES = bytes.fromhex(
    "37a430eceb8000003010c092a60d3330033330033304a17134b2a9a77753774b33b2645f9755f7ef6f121ebf"
    "bbbb7bd34e04af6307f530dc13c3010014148c0d04317a9d3a000400c2971b9b96078f104522210c0f834828"
    "c318100000000018020000c34c1a01000000446ca44442c321493414888321c1581ac4309c435a940a000000"
    "010000000400000008000000"
)
